// A grid of images to choose from. value: {cards: [{id, title, note, image | images: [{id, image}]}], act, empty}
// A card with `images` offers a choice for each, and the button `act` beside its title; others a cross.
(() => {
  window.slotlab = window.slotlab || {};
  window.slotlab.cards = (element, props, choose, act, watch) => {
    const root = element.querySelector(".sl-cards");

    function make(tag, className, text, fields = {}) {
      const node = Object.assign(document.createElement(tag), { className, ...fields });
      if (text) node.textContent = text;
      return node;
    }

    function choice(card, { id, image }) {
      const button = make("button", "sl-choice", "", { type: "button" });
      button.dataset.id = id;
      button.append(make("img", "", "", { src: image, alt: card.title, draggable: false }));
      button.addEventListener("click", () => choose({ id }));
      return button;
    }

    function build() {
      const { cards = [], act: label, empty = "" } = props.value || {};
      root.replaceChildren();
      if (!cards.length && empty) root.append(make("p", "sl-note", empty));
      for (const card of cards) {
        const node = make("div", "sl-card");
        const words = [make("span", "sl-card-title", card.title), make("span", "sl-help", card.note)];
        const other = label && make("button", card.images ? "sl-more" : "sl-drop", card.images ? label : "×", {
          type: "button",
          title: label,
          ariaLabel: `${label}: ${card.title}`,
        });
        other?.addEventListener("click", () => act({ id: card.id }));
        if (card.images) {
          const [head, row] = [make("div", "sl-card-head"), make("div", "sl-card-images")];
          head.append(...words, ...(other ? [other] : []));
          row.append(...card.images.map((one) => choice(card, one)));
          node.append(head, row);
        } else {
          const button = choice(card, card);
          button.append(...words.filter((word) => word.textContent));
          node.append(button, ...(other ? [other] : []));
        }
        root.append(node);
      }
    }

    watch("value", build);
    build();
  };
})();
