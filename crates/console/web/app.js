// The page at /journeys: which view is shown, by the part of the address after #.

import { Client } from "./net/client.js";
import { LiveRequests } from "./net/live.js";
import { RecentJourneys } from "./net/recent.js";
import { h, replace, setText } from "./lib/dom.js";
import { askForKey } from "./views/key.js";
import { journeyView } from "./views/journey.js";
import { nowView } from "./views/now.js";
import { recentView } from "./views/recent.js";
import { whyView } from "./views/why.js";

const VIEWS = { now: nowView, recent: recentView, journey: journeyView, why: whyView };
const FIRST = "now";
const THEMES = ["auto", "light", "dark"];
const THEME_PLACE = "wayfare-theme";

const client = new Client(askForKey);
const app = {
  client,
  recent: new RecentJourneys(client),
  live: new LiveRequests(client),
  about: null,
  go(address) {
    location.hash = address;
  },
  /** Several journeys may have one id; the span says which is meant. */
  journeyAddress(id, span) {
    return `#/journey/${encodeURIComponent(id)}${span ? `?span=${span}` : ""}`;
  },
  /** Makes the choices in a view part of the address, without a step back to each of them. */
  remember(view, parameters) {
    const given = Object.entries(parameters).filter(([, value]) => value !== "");
    const query = new URLSearchParams(given).toString();
    history.replaceState(null, "", `#/${view}${query ? `?${query}` : ""}`);
  },
  isReachable(is, error) {
    about.classList.toggle("bad", !is);
    setText(about, is ? describeServer() : `not reached: ${error.message}`);
  },
};

const main = document.getElementById("main");
const about = document.getElementById("about");
let shown = null;

function describeServer() {
  return app.about ? `${app.about.model} · ${app.about.engine} · ${app.about.version}` : "";
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  const view = Object.hasOwn(VIEWS, name) ? name : FIRST;
  shown?.stop();
  shown = VIEWS[view](app, rest.map(decoded), new URLSearchParams(query));
  replace(main, shown.element);
  document.title = `${shown.title} · wayfare`;
  for (const link of document.querySelectorAll("#views a")) {
    const isCurrent = link.getAttribute("href") === `#/${view}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  globalThis.scrollTo(0, 0);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function startTheme() {
  const button = document.getElementById("theme");
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    replace(button, h("span", { "aria-hidden": "true" }, { auto: "◐", light: "○", dark: "●" }[theme]));
    button.title = `Theme: ${theme}`;
    shown?.redraw?.();
  };
  let theme = localStorage.getItem(THEME_PLACE);
  if (!THEMES.includes(theme)) theme = "auto";
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    localStorage.setItem(THEME_PLACE, theme);
    show(theme);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown?.redraw?.());
  show(theme);
}

function startSearch() {
  const [form, input] = [document.getElementById("find"), document.getElementById("find-id")];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const id = input.value.trim();
    if (id !== "") app.go(app.journeyAddress(id));
  });
}

async function start() {
  startTheme();
  startSearch();
  globalThis.addEventListener("hashchange", route);
  document.querySelector(".skip").addEventListener("click", (event) => {
    // The address is the view's; only the focus moves.
    event.preventDefault();
    main.focus();
  });
  try {
    app.about = await client.get("about");
    app.isReachable(true);
  } catch (error) {
    app.isReachable(false, error);
  }
  route();
}

start();
