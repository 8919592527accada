// Gives the browser a file without keeping one on the server; and puts pasted images into the upload field.
(() => {
  window.slotlab = window.slotlab || {};
  window.slotlab.download = (element, props, watch) => {
    watch("value", () => {
      const { name, content } = props.value || {};
      if (!name) return;
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([bytes]));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  };

  // Gradio removes the field from the page while its section is closed.
  async function uploadField() {
    const find = () => document.querySelector("#sl-upload input[type=file]");
    if (!find()) document.querySelector("#sl-upload-section > button")?.click();
    for (let tries = 0; !find() && tries < 20; tries++) await new Promise((resume) => setTimeout(resume, 50));
    return find();
  }

  document.addEventListener("paste", async (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    const field = await uploadField();
    if (!field) return;
    const carried = new DataTransfer();
    carried.items.add(file);
    field.files = carried.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
})();
