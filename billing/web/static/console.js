/* The console's own script: what pages do beyond links and forms. Every page works without it, but for what is hidden
   until it runs. It is loaded before the page is painted, so that a chosen theme does not flash. */
(function () {
  "use strict";
  var root = document.documentElement;
  var THEMES = ["", "light", "dark"];
  var LIVE_MS = 5000;

  function stored() {
    try { return localStorage.getItem("mg-theme") || ""; } catch (error) { return ""; }
  }
  function useTheme(name) {
    if (name) { root.dataset.theme = name; } else { delete root.dataset.theme; }
  }
  useTheme(stored());

  function url(path) { return root.dataset.root + path; }

  /* navigator.clipboard is missing on plain http: a selection is copied there, and what failed is said. */
  function copyText(text, source) {
    if (navigator.clipboard && window.isSecureContext) {
      return navigator.clipboard.writeText(text).then(function () { return true; }, function () { return bySelection(source); });
    }
    return Promise.resolve(bySelection(source));
  }
  function bySelection(source) {
    var range = document.createRange(), selection = window.getSelection();
    range.selectNodeContents(source);
    selection.removeAllRanges();
    selection.addRange(range);
    try { return document.execCommand("copy"); } catch (error) { return false; }
  }

  /* Of a terminal's lines what was typed: those after a prompt, and what follows a backslash at their end. */
  function typed(text) {
    if (text.slice(0, 2) !== "$ ") { return text; }
    var goesOn = false;
    return text.split("\n").filter(function (line) {
      var taken = goesOn || line.slice(0, 2) === "$ ";
      goesOn = taken && line.slice(-1) === "\\";
      return taken;
    }).map(function (line) { return line.replace(/^\$ /, ""); }).join("\n");
  }

  function onCopy(button) {
    var source = button.parentElement.querySelector("code, input, output") || button.parentElement;
    var said = button.dataset.label || (button.dataset.label = button.textContent);
    copyText(typed(source.value || source.textContent), source).then(function (done) {
      button.textContent = done ? "Copied" : "Selected: press Ctrl+C";
      setTimeout(function () { button.textContent = said; }, 2500);
    });
  }

  function reveal(within) {
    within.querySelectorAll("[data-copy][hidden], [data-theme-switch][hidden], [data-script][hidden]").forEach(function (each) {
      each.hidden = false;
    });
    within.querySelectorAll("form:has([data-submits]) button").forEach(function (each) { each.hidden = true; });
  }

  function nameTheme(button) { button.textContent = "Theme: " + (root.dataset.theme || "auto"); }

  document.addEventListener("click", function (event) {
    var copy = event.target.closest("[data-copy]"), theme = event.target.closest("[data-theme-switch]");
    if (copy) { onCopy(copy); }
    if (theme) {
      var next = THEMES[(THEMES.indexOf(root.dataset.theme || "") + 1) % THEMES.length];
      useTheme(next);
      try { localStorage.setItem("mg-theme", next); } catch (error) { /* it holds for this page */ }
      document.querySelectorAll("[data-theme-switch]").forEach(nameTheme);
    }
  });
  /* The search over everything: by its link, or Ctrl K, also where one types. */
  function find(event) {
    var dialog = document.getElementById("find");
    if (!dialog) { return; }
    event.preventDefault();
    if (!dialog.open) { dialog.showModal(); }
    document.getElementById("find-q").focus();
  }
  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-find]")) { find(event); }
    if (event.target.closest("[data-close]")) { event.target.closest("dialog").close(); }
  });
  /* The menu, where there is no room for it beside the page. */
  function menu(wanted) {
    var nav = document.getElementById("nav"), link = document.querySelector("[data-menu]");
    if (!nav || !link) { return; }
    var open = wanted === undefined ? !nav.classList.contains("open") : wanted;
    nav.classList.toggle("open", open);
    link.setAttribute("aria-expanded", String(open));
    if (!open && nav.contains(document.activeElement)) { link.focus(); }
  }
  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-menu]")) { event.preventDefault(); menu(); }
  });
  document.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { menu(false); }
    if (event.key === " " && event.target.closest("[data-menu]")) { event.preventDefault(); menu(); }
  });
  document.addEventListener("keydown", function (event) {
    if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") { find(event); }
  });
  document.addEventListener("change", function (event) {
    if (event.target.matches("[data-submits]")) { event.target.form.requestSubmit(); }
  });
  document.addEventListener("submit", function (event) {
    var said = event.target.dataset.confirm;
    if (said && !window.confirm(said)) { event.preventDefault(); }
  });

  /* Keys: off where one types, and with Ctrl, Alt or Meta. */
  var GOES = { o: "", u: "usage", r: "requests", k: "keys", c: "credit" };
  var pending = false;
  document.addEventListener("keydown", function (event) {
    var help = document.getElementById("keys-help");
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, textarea, select, [contenteditable]")) { return; }
    if (pending && event.key in GOES) { pending = false; location.assign(url(GOES[event.key])); return; }
    pending = event.key === "g";
    if (pending) { setTimeout(function () { pending = false; }, 1500); }
    if (event.key === "/") {
      var search = document.querySelector("[data-search]");
      if (search) {
        event.preventDefault();
        if (search.closest("details")) { search.closest("details").open = true; }
        search.focus();
      }
    } else if (event.key === "?" && help && !help.open) {
      event.preventDefault();
      help.showModal();
    }
  });

  document.addEventListener("DOMContentLoaded", function () {
    reveal(document);
    document.querySelectorAll("[data-theme-switch]").forEach(nameTheme);
    document.querySelectorAll("[data-menu]").forEach(function (each) {
      each.setAttribute("role", "button");
      each.setAttribute("aria-controls", "nav");
      menu(false);
    });
    document.body.addEventListener("htmx:load", function (event) { reveal(event.detail.elt); });
    var problem = document.getElementById("problem");
    if (problem) { problem.scrollIntoView({ block: "nearest" }); }
    /* Parts that look again: `data-live` with hx-get and hx-trigger="look". Nothing is asked while nobody looks. A page
       that answers a form has another address than the part that it would fetch, whose links are relative: it stays. */
    if ("still" in root.dataset) { return; }
    setInterval(function () {
      if (document.visibilityState !== "visible" || !window.htmx) { return; }
      var selection = window.getSelection();
      document.querySelectorAll("[data-live]").forEach(function (each) {
        /* What somebody has the focus in, or selects, stays as it is. */
        var busy = each.contains(document.activeElement) || (!selection.isCollapsed && each.contains(selection.anchorNode));
        if (!busy) { window.htmx.trigger(each, "look"); }
      });
    }, LIVE_MS);
  });
})();
