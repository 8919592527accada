// An image and its slots: panes side by side, a strip of slots below them, and one selection for all.
//
// value: {opacity, frames, groups: [{title, text, width, height, colours, panes, slots}]}
//   pane: {title, note, image, tint, frames: [{labels, heat, image}]}; labels: base64 of width*height slot numbers, row
//         by row; heat: {side, maps: {slot: base64}}, drawn for the selected slot where there is one
//   slot: {number, share, picture, raw}
// With a `rate`, frames are those of a clip, which can be played, and a strip of them shows the slot in all.
// A click chooses a slot; with Shift, and where the value says `merges`, it puts {slot, into} instead.
(() => {
  const INFERNO = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"].map(
    (code) => [0, 2, 4].map((at) => parseInt(code.slice(at, at + 2), 16)),
  );
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const rgb = (code) => [1, 3, 5].map((at) => parseInt(code.slice(at, at + 2), 16));

  function inferno(level) {
    const place = (level / 255) * (INFERNO.length - 1);
    const low = Math.min(Math.floor(place), INFERNO.length - 2);
    return INFERNO[low].map((value, channel) => value + (place - low) * (INFERNO[low + 1][channel] - value));
  }

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  // Colours are [red, green, blue, alpha]; one of each level or slot, so that a photograph takes milliseconds.
  function paintPixels(canvas, width, height, values, colours) {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    const words = new Uint32Array(pixels.data.buffer);
    const packed = new Uint32Array(256);
    new Uint8ClampedArray(packed.buffer).set(Array.from({ length: 256 }, (_, at) => colours[at] || [0, 0, 0, 0]).flat());
    for (let at = 0; at < words.length; at++) words[at] = packed[values[at]];
    context.putImageData(pixels, 0, 0);
  }

  // Draws a line around the slot, and dims what is outside; the canvas is about `side` pixels wide.
  function markSlot(canvas, labels, { width, height }, slot, colour, dim, side = 640) {
    const scale = Math.max(1, Math.round(side / width));
    Object.assign(canvas, { width: width * scale, height: height * scale });
    const context = canvas.getContext("2d");
    if (slot === null || !labels) return;
    const outline = new Path2D();
    if (dim) {
      const small = make("canvas");
      const shade = Array.from({ length: 256 }, (_, at) => [0, 0, 0, at === slot ? 0 : 158]);
      paintPixels(small, width, height, labels, shade);
      context.imageSmoothingEnabled = false;
      context.drawImage(small, 0, 0, canvas.width, canvas.height);
    }
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        if (labels[row * width + column] !== slot) continue;
        const [left, top, right, bottom] = [column, row, column + 1, row + 1].map((edge) => edge * scale);
        const other = (x, y) => x < 0 || y < 0 || x >= width || y >= height || labels[y * width + x] !== slot;
        if (other(column - 1, row)) outline.moveTo(left, top), outline.lineTo(left, bottom);
        if (other(column + 1, row)) outline.moveTo(right, top), outline.lineTo(right, bottom);
        if (other(column, row - 1)) outline.moveTo(left, top), outline.lineTo(right, top);
        if (other(column, row + 1)) outline.moveTo(left, bottom), outline.lineTo(right, bottom);
      }
    }
    for (const [style, width] of [["#ffffff", 7], [colour, 4]]) {
      context.strokeStyle = style;
      context.lineWidth = Math.max(2, (width * side) / 640);
      context.stroke(outline);
    }
  }

  function tintPane(canvas, group, pane, opacity) {
    const { labels } = pane.shown;
    const colours = {};
    for (const [slot, code] of Object.entries(group.colours)) colours[slot] = [...rgb(code), 255 * opacity];
    const values = labels || new Uint8Array(group.width * group.height);
    paintPixels(canvas, group.width, group.height, values, labels && pane.tint ? colours : {});
  }

  function heatPane(canvas, heat, slot) {
    const colourOf = (_, level) => [...inferno(level), 140 + 115 * Math.min(1, (1.6 * level) / 255)];
    paintPixels(canvas, heat.side, heat.side, bytes(heat.maps[slot]), Array.from({ length: 256 }, colourOf));
  }

  function slider(label, help, from, to, step, value, onInput) {
    const box = make("label", "sl-slider");
    const input = make("input");
    Object.assign(input, { type: "range", ariaLabel: label, min: from, max: to, step, value });
    const shown = make("output", "", "");
    const tell = () => (shown.textContent = onInput(Number(input.value)));
    input.addEventListener("input", tell);
    const head = make("span", "sl-slider-head");
    head.append(make("span", "", label), shown);
    box.append(head, input, make("span", "sl-help", help));
    tell();
    return box;
  }

  window.slotlab = window.slotlab || {};
  window.slotlab.figure = (element, props, choose, put, watch) => {
    const root = element.querySelector(".sl-figure");
    const kept = { opacity: null, frame: null };
    let groups = [];

    function redraw() {
      for (const group of groups) {
        const slot = group.hovered ?? group.pinned;
        for (const pane of group.panes) {
          const frame = pane.frames[Math.min(kept.frame, pane.frames.length - 1)] || {};
          if (frame.image && frame !== pane.shown) pane.imageNode.src = frame.image;
          pane.shown = frame;
          const heated = frame.heat && slot !== null && frame.heat.maps[slot];
          pane.tintCanvas.classList.toggle("sl-smooth", Boolean(heated));
          if (heated) heatPane(pane.tintCanvas, frame.heat, slot);
          else tintPane(pane.tintCanvas, group, pane, kept.opacity);
          markSlot(pane.markCanvas, frame.labels, group, heated ? null : slot, group.colours[slot] || "#ffffff", !props.value.keep);
        }
        group.film.forEach((one, number) => one.setAttribute("aria-current", String(number === kept.frame)));
        if (group.filmed !== slot) {
          group.filmed = slot;
          group.film.forEach((one, number) =>
            markSlot(one.lastChild, group.panes[0].frames[number].labels, group, slot, group.colours[slot] || "#ffffff", true, 160),
          );
        }
        for (const card of group.cards) {
          card.setAttribute("aria-pressed", String(Number(card.dataset.slot) === group.pinned));
          card.classList.toggle("sl-hovered", Number(card.dataset.slot) === slot);
        }
        const known = !props.value.placing && group.slots.find((one) => one.number === slot);
        group.said.textContent = known ? `Slot ${slot}: ${known.share}` : group.hint;
      }
    }

    function place(pane, group, event) {
      const box = pane.frameNode.getBoundingClientRect();
      const at = (value, start, length, count) =>
        Math.max(0, Math.min(count - 1, Math.floor(((value - start) / length) * count)));
      return {
        x: at(event.clientX, box.left, box.width, group.width),
        y: at(event.clientY, box.top, box.height, group.height),
      };
    }

    // The slot that owns a place of one group's pane, and in the other groups the slot at the same place.
    function selectAt(group, pane, spot, how) {
      for (const other of groups) {
        const own = other === group && pane.shown.labels ? pane : other.panes.find((one) => one.shown.labels);
        const labels = own?.shown.labels;
        const x = Math.floor(((spot.x + 0.5) / group.width) * other.width);
        const y = Math.floor(((spot.y + 0.5) / group.height) * other.height);
        other[how] = labels ? labels[y * other.width + x] : null;
      }
    }

    function clear(how) {
      for (const group of groups) group[how] = null;
      redraw();
    }

    // Whether a click with Shift merges a slot into the selected one.
    function merges(event, group, slot) {
      const into = group.pinned;
      if (!event.shiftKey || !props.value.merges || into === null || slot === null || slot === into) return false;
      put({ slot, into });
      return true;
    }

    function buildPane(group, pane, number) {
      const node = make("figure", "sl-pane");
      node.append(make("figcaption", "sl-pane-title", pane.title));
      pane.frameNode = make("div", "sl-frame");
      const image = (pane.imageNode = make("img"));
      Object.assign(image, { src: pane.image, alt: pane.title, draggable: false });
      [pane.tintCanvas, pane.markCanvas] = [make("canvas", "sl-tint"), make("canvas", "sl-mark")];
      pane.frameNode.append(image, pane.tintCanvas, pane.markCanvas);
      pane.frameNode.dataset.pane = pane.title;
      pane.frameNode.style.setProperty("--sl-aspect", group.width / group.height);
      pane.frameNode.addEventListener("pointermove", (event) => {
        if (event.pointerType === "touch") return;
        const before = groups.map((one) => one.hovered).join();
        selectAt(group, pane, place(pane, group, event), "hovered");
        if (groups.map((one) => one.hovered).join() !== before) redraw();
      });
      pane.frameNode.addEventListener("pointerleave", () => clear("hovered"));
      pane.frameNode.addEventListener("click", (event) => {
        const spot = place(pane, group, event);
        if (props.value.placing) return put(spot);
        if (merges(event, group, pane.shown.labels?.[spot.y * group.width + spot.x] ?? null)) return;
        const before = group.pinned;
        selectAt(group, pane, spot, "pinned");
        if (group.pinned === before && !props.value.keep) clear("pinned");
        redraw();
        choose({ slot: group.pinned, pane: number, group: groups.indexOf(group), ...spot });
      });
      node.append(pane.frameNode);
      if (pane.note) node.append(make("div", "sl-note", pane.note));
      return node;
    }

    // The frames of a clip in a row, each a button that shows it.
    function buildFilm(group, toFrame) {
      const row = make("div", "sl-film");
      group.film = group.panes[0].frames.map((frame, number) => {
        const button = make("button", "sl-film-frame");
        Object.assign(button, { type: "button", ariaLabel: `Frame ${number + 1}` });
        const image = make("img");
        Object.assign(image, { src: frame.image, alt: "", draggable: false });
        button.append(image, make("canvas"));
        button.style.setProperty("--sl-aspect", group.width / group.height);
        button.addEventListener("click", () => toFrame(number));
        return button;
      });
      row.append(...group.film);
      return row;
    }

    // A slider over the frames of a clip, and a button that plays them.
    function buildPlayer(value) {
      const box = slider("Frame", "All frames are in the strip below.", 1, value.frames, 1, kept.frame + 1, (now) => {
        kept.frame = now - 1;
        redraw();
        return `${now} of ${value.frames}`;
      });
      const input = box.querySelector("input");
      const toFrame = (number) => ((input.value = number + 1), input.dispatchEvent(new Event("input")));
      const play = make("button", "sl-play", "Play");
      play.type = "button";
      play.addEventListener("click", () => {
        const stopped = play.textContent === "Play";
        play.textContent = stopped ? "Pause" : "Play";
        clearInterval(kept.timer);
        const next = () => root.getClientRects().length && toFrame((kept.frame + 1) % value.frames);
        if (stopped) kept.timer = setInterval(next, 1000 / value.rate);
      });
      const player = make("div", "sl-player");
      player.append(play, box);
      return [player, toFrame];
    }

    function buildCard(group, slot) {
      const card = make("button", "sl-slot");
      card.type = "button";
      card.dataset.slot = slot.number;
      card.setAttribute("aria-label", `Slot ${slot.number}, ${slot.share}`);
      const head = make("span", "sl-slot-head");
      const chip = make("span", "sl-chip");
      chip.style.background = slot.empty ? "transparent" : group.colours[slot.number];
      head.append(chip, make("span", "", String(slot.number)), make("span", "sl-help", slot.share));
      card.append(head);
      for (const [source, what] of [[slot.picture, "masked"], [slot.raw, "raw"]]) {
        if (!source) continue;
        const image = make("img");
        Object.assign(image, { src: source, alt: `Slot ${slot.number}, ${what}`, title: what, draggable: false });
        card.append(image);
      }
      const hover = (value) => () => ((group.hovered = value), redraw());
      card.addEventListener("pointerenter", hover(slot.number));
      card.addEventListener("pointerleave", hover(null));
      card.addEventListener("focus", hover(slot.number));
      card.addEventListener("blur", hover(null));
      card.addEventListener("click", (event) => {
        if (merges(event, group, slot.number)) return;
        group.pinned = group.pinned === slot.number && !props.value.keep ? null : slot.number;
        redraw();
        choose({ slot: group.pinned, pane: null, group: groups.indexOf(group), x: null, y: null });
      });
      return card;
    }

    function build() {
      const value = props.value;
      const focused = root.contains(document.activeElement) ? document.activeElement : null;
      root.replaceChildren();
      groups = [];
      clearInterval(kept.timer);
      if (!value || !value.groups) return;
      kept.opacity ??= value.opacity ?? null;
      const last = Math.max(0, (value.frames ?? 1) - 1);
      kept.frame = value.rate ? Math.min(kept.frame ?? 0, last) : last;
      root.classList.toggle("sl-placing", Boolean(value.placing));
      root.classList.toggle("sl-large", Boolean(value.large));
      const bar = make("div", "sl-bar");
      if (value.opacity !== undefined) {
        bar.append(
          slider("Colours over the image", "0 % shows the image alone, 100 % the segments alone.", 0, 1, 0.05, kept.opacity, (now) => {
            kept.opacity = now;
            redraw();
            return `${Math.round(100 * now)} %`;
          }),
        );
      }
      const [player, toFrame] = value.rate ? buildPlayer(value) : [];
      if (player) bar.append(player);
      else if (value.frames > 1) {
        bar.append(
          slider("Iteration of slot attention", "See attention form from iteration to iteration.", 1, value.frames, 1, value.frames, (now) => {
            kept.frame = now - 1;
            redraw();
            return `${now} of ${value.frames}`;
          }),
        );
      }
      for (const given of value.groups) {
        const frames = (pane) =>
          pane.frames.map((frame) => ({ ...frame, labels: frame.labels ? bytes(frame.labels) : null }));
        const group = { ...given, panes: given.panes.map((pane) => ({ ...pane, frames: frames(pane) })) };
        Object.assign(group, { hovered: null, pinned: value.selected ?? null, hint: value.hint || "" });
        const section = make("section", "sl-group");
        if (group.title) section.append(make("h3", "sl-group-title", group.title));
        if (group.text) section.append(make("p", "sl-note", group.text));
        const row = make("div", "sl-panes");
        row.append(...group.panes.map((pane, number) => buildPane(group, pane, number)));
        group.said = make("div", "sl-said");
        group.said.setAttribute("aria-live", "polite");
        group.cards = group.slots.map((slot) => buildCard(group, slot));
        const strip = make("div", "sl-strip");
        strip.append(...group.cards);
        group.film = [];
        section.append(row, group.said, ...(toFrame ? [buildFilm(group, toFrame)] : []), strip);
        root.append(section);
        groups.push(group);
      }
      if (bar.children.length) (groups.length === 1 ? groups[0].said : root.firstChild).before(bar);
      redraw();
      if (focused) (root.querySelector(`[data-slot="${focused.dataset.slot}"]`) || root).focus({ preventScroll: true });
    }

    root.tabIndex = -1; // a click in it brings the keys here
    root.addEventListener("keydown", (event) => {
      const cards = [...root.querySelectorAll(".sl-slot")];
      const at = cards.indexOf(document.activeElement);
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (at >= 0 && step) {
        cards[(at + step + cards.length) % cards.length].focus();
        event.preventDefault();
      }
      if (event.key === "Escape" && !props.value.keep) clear("pinned");
    });
    document.addEventListener("keydown", (event) => {
      const named = (event.key.length > 1 || event.ctrlKey || event.metaKey) && props.value?.keys?.[event.key];
      if (!named || !root.getClientRects().length || event.target.closest("input, textarea")) return;
      document.getElementById(named)?.click();
      event.preventDefault();
    });
    watch("value", build);
    build();
  };
})();
