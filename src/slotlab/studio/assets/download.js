// Gives the browser a file without keeping one on the server; puts images and films that are pasted, or dropped
// anywhere, into an upload field.
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

  // Films, and what comes while the Clip view is open, go to that view, else an image goes to the Photo view.
  async function take(event, files) {
    if (files?.length) event.preventDefault(); // the browser would open what it is
    const known = [...(files || [])].filter((one) => /^(image|video)\//.test(one.type));
    if (!known.length) return;
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const tabOf = (name) => tabs.find((tab) => tab.textContent.trim() === name);
    const clips = known[0].type.startsWith("video/") || tabOf("Clip")?.ariaSelected === "true";
    const [name, view] = clips ? ["sl-clip-upload", "Clip"] : ["sl-upload", "Photo"];
    const find = () => document.querySelector(`#${name} input[type=file]`);
    const ready = () => find() && (!clips || document.querySelector("#sl-clip .sl-slot"));
    if (!ready()) tabOf(view)?.click();
    for (let wait = 0; wait < 200 && !ready(); wait++) await new Promise((done) => setTimeout(done, 50));
    if (clips) tabOf(view)?.click();
    const carried = new DataTransfer();
    for (const file of clips ? known : known.slice(0, 1)) carried.items.add(file);
    find().files = carried.files;
    find().dispatchEvent(new Event("change", { bubbles: true }));
  }

  document.addEventListener("paste", (event) => take(event, event.clipboardData?.files));
  const elsewhere = (event) => !event.target.closest?.(".sl-upload"); // the fields take what is dropped on them
  document.addEventListener("dragover", (event) => elsewhere(event) && event.preventDefault());
  document.addEventListener("drop", (event) => elsewhere(event) && take(event, event.dataTransfer?.files));
})();
