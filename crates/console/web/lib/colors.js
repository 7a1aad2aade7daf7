// The colours of the style sheet, resolved for the theme in force, for drawing on a canvas.

/** @returns an object of `rgb(…)` by name without the leading `--` */
export function colorsOf(element, names) {
  const probe = document.createElement("span");
  probe.hidden = true;
  element.append(probe);
  const colors = {};
  for (const name of names) {
    probe.style.setProperty("color", `var(--${name})`);
    colors[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return colors;
}
