"use strict";
(function () {
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  const contents = document.querySelector("nav details");
  if (matchMedia("(max-width: 900px)").matches) contents.open = false;
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const a of links.values()) a.removeAttribute("aria-current");
        const link = links.get(entry.target.id);
        if (link) link.setAttribute("aria-current", "true");
      }
    }, { rootMargin: "-10% 0px -80% 0px" });
    document.querySelectorAll("main section").forEach((section) => seen.observe(section));
  }

  const source = document.getElementById("samples-data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const STEP = 20;
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  const found = document.getElementById("found");
  const search = document.getElementById("search");
  const texts = data.rows.map((row) =>
    [row.prompt, ...Object.values(row.responses).map((r) => r.text)].join("\n").toLowerCase());
  let matching = data.rows;
  let shown = 0;
  let words = "";

  // Text nodes only: what a model wrote is never taken for HTML.
  function element(name, className, text) {
    const node = document.createElement(name);
    node.className = className;
    if (text !== undefined) append(node, text);
    return node;
  }
  function append(node, text) {
    if (!words) { node.append(text); return; }
    const low = text.toLowerCase();
    let at = 0;
    for (let hit = low.indexOf(words); hit >= 0; hit = low.indexOf(words, at)) {
      node.append(text.slice(at, hit), Object.assign(document.createElement("mark"), { textContent: text.slice(hit, hit + words.length) }));
      at = hit + words.length;
    }
    node.append(text.slice(at));
  }
  function sample(row) {
    const article = element("article", "sample");
    const responses = element("div", "responses");
    for (const model of data.models) {
      const response = row.responses[model];
      if (!response) continue;
      const box = element("div", "response");
      const who = document.createElement("p");
      who.className = "who";
      who.textContent = model;
      const about = document.createElement("p");
      about.className = "about";
      about.textContent = response.about;
      box.append(who, element("p", "text", response.text || "(empty)"), about);
      responses.append(box);
    }
    article.append(element("p", "prompt", row.prompt), responses);
    return article;
  }
  function showMore(count) {
    const next = matching.slice(shown, shown + count);
    list.append(...next.map(sample));
    shown += next.length;
    more.hidden = shown >= matching.length;
    found.textContent = matching.length === data.rows.length
      ? `${data.rows.length} prompts, ${shown} shown`
      : `${matching.length} of ${data.rows.length} prompts, ${shown} shown`;
  }
  function restart(count) {
    words = search.value.trim().toLowerCase();
    matching = words ? data.rows.filter((_, i) => texts[i].includes(words)) : data.rows;
    list.replaceChildren();
    shown = 0;
    showMore(count);
  }
  document.querySelector(".controls").hidden = false;
  let waiting;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => restart(STEP), 120); });
  more.addEventListener("click", () => showMore(STEP));
  restart(5);
})();
