// A grid of images to choose from. value: {cards: [{id, image | images, title, note}], drop, empty}
(() => {
  window.slotlab = window.slotlab || {};
  window.slotlab.cards = (element, props, choose, drop, watch) => {
    const root = element.querySelector(".sl-cards");

    function build() {
      const { cards = [], drop: droppable, empty = "" } = props.value || {};
      root.replaceChildren();
      if (!cards.length && empty) {
        const said = document.createElement("p");
        said.className = "sl-note";
        said.textContent = empty;
        root.append(said);
      }
      for (const card of cards) {
        const node = document.createElement("div");
        node.className = "sl-card";
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.id = card.id;
        const pictures = document.createElement("span");
        pictures.className = "sl-card-pictures";
        for (const source of card.images || [card.image]) {
          const image = document.createElement("img");
          Object.assign(image, { src: source, alt: card.title, draggable: false });
          pictures.append(image);
        }
        button.append(pictures);
        for (const [text, className] of [[card.title, "sl-card-title"], [card.note, "sl-help"]]) {
          if (!text) continue;
          const line = document.createElement("span");
          line.className = className;
          line.textContent = text;
          button.append(line);
        }
        button.addEventListener("click", () => choose({ id: card.id }));
        node.append(button);
        if (droppable) {
          const cross = document.createElement("button");
          Object.assign(cross, { type: "button", className: "sl-drop", textContent: "×", title: droppable });
          cross.setAttribute("aria-label", `${droppable}: ${card.title}`);
          cross.addEventListener("click", () => drop({ id: card.id }));
          node.append(cross);
        }
        root.append(node);
      }
    }

    watch("value", build);
    build();
  };
})();
