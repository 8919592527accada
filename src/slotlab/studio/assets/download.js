// Gives the browser a file without keeping one on the server; puts images that are pasted, or dropped anywhere, into
// the upload field.
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

  async function take(event, files) {
    if (files?.length) event.preventDefault(); // the browser would open what it is
    const file = [...(files || [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    const find = () => document.querySelector("#sl-upload input[type=file]");
    if (!find()) [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === "Photo")?.click();
    for (let wait = 0; wait < 100 && !find(); wait++) await new Promise((done) => setTimeout(done, 50));
    const carried = new DataTransfer();
    carried.items.add(file);
    find().files = carried.files;
    find().dispatchEvent(new Event("change", { bubbles: true }));
  }

  document.addEventListener("paste", (event) => take(event, event.clipboardData?.files));
  const elsewhere = (event) => !event.target.closest?.(".sl-upload"); // the fields take what is dropped on them
  document.addEventListener("dragover", (event) => elsewhere(event) && event.preventDefault());
  document.addEventListener("drop", (event) => elsewhere(event) && take(event, event.dataTransfer?.files));
})();
