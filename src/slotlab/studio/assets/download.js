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

  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])].find((one) => one.type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    const field = document.querySelector("#sl-upload input[type=file]");
    if (!field) return; // a view without an image
    const carried = new DataTransfer();
    carried.items.add(file);
    field.files = carried.files;
    field.dispatchEvent(new Event("change", { bubbles: true }));
  });
})();
