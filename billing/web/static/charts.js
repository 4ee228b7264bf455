/* Charts: what a bar says where one points at it or has the focus in it, and arrow keys within one tab stop. Without
   this file each bar is a link that says the same to whoever listens, and the tables have the numbers. */
(function () {
  "use strict";
  var GAP_PX = 12, shown = null;

  function bars(chart) { return Array.prototype.slice.call(chart.querySelectorAll("svg a")); }

  function line(name, amount, series) {
    var row = document.createElement("div"), swatch = document.createElement("span"), value = document.createElement("b");
    row.className = "said";
    if (series !== null) { swatch.className = "swatch s" + series; row.append(swatch); }
    row.append(name);
    value.textContent = amount;
    row.append(value);
    return row;
  }

  function show(bar) {
    var chart = bar.closest("[data-chart]"), readout = chart.querySelector(".readout"), title = document.createElement("strong");
    hide();
    title.textContent = bar.dataset.title;
    readout.replaceChildren(title);
    JSON.parse(bar.dataset.said).forEach(function (each) { readout.append(line(each[1], each[2], each[0])); });
    if (bar.dataset.mark) { readout.append(line(bar.dataset.mark, "", null)); }
    readout.hidden = false;
    bar.classList.add("pointed");
    shown = bar;
    /* Beside the bar, on the side where there is more room. */
    var whole = chart.getBoundingClientRect(), box = bar.querySelector(".hit").getBoundingClientRect();
    var left = box.left - whole.left, right = left + box.width;
    var wanted = right + GAP_PX + readout.offsetWidth <= whole.width ? right + GAP_PX : left - GAP_PX - readout.offsetWidth;
    readout.style.left = Math.max(0, Math.min(wanted, whole.width - readout.offsetWidth)) + "px";
  }

  function hide() {
    if (!shown) { return; }
    var chart = shown.closest("[data-chart]");
    shown.classList.remove("pointed");
    if (chart) { chart.querySelector(".readout").hidden = true; }
    shown = null;
  }

  function barOf(event) {
    return event.target instanceof Element ? event.target.closest("[data-chart] svg a") : null;
  }

  /* One tab stop a chart: the last bar, which is now, or the one that had the focus last. */
  function oneStop(chart, bar) {
    bars(chart).forEach(function (each) { each.setAttribute("tabindex", each === bar ? "0" : "-1"); });
  }
  function prepare(within) {
    within.querySelectorAll("[data-chart]").forEach(function (chart) {
      var all = bars(chart);
      if (all.length) { oneStop(chart, all[all.length - 1]); }
    });
  }

  document.addEventListener("pointerover", function (event) {
    var bar = barOf(event);
    if (bar && event.pointerType !== "touch") { show(bar); }
    else if (!bar && shown && !shown.matches(":focus-visible")) { hide(); }
  });
  /* A finger that slides over the bars reads them; a tap reads one, and another tap on it follows its link. */
  var tapped = null;
  document.addEventListener("pointerdown", function (event) {
    if (event.pointerType !== "touch") { return; }
    var bar = barOf(event);
    tapped = bar && bar !== shown ? bar : null;
    if (bar) { show(bar); } else { hide(); }
  });
  document.addEventListener("pointermove", function (event) {
    if (event.pointerType !== "touch" || !shown) { return; }
    var under = document.elementFromPoint(event.clientX, event.clientY), bar = under && under.closest("[data-chart] svg a");
    if (bar && bar !== shown) { tapped = bar; show(bar); }
  });
  document.addEventListener("click", function (event) {
    var bar = barOf(event);
    if (bar && bar === tapped) { event.preventDefault(); event.stopPropagation(); }
    tapped = null;
  }, true);

  document.addEventListener("focusin", function (event) {
    var bar = barOf(event);
    if (bar) { oneStop(bar.closest("[data-chart]"), bar); if (!tapped) { show(bar); } } else { hide(); }
  });
  document.addEventListener("keydown", function (event) {
    var bar = barOf(event);
    if (event.key === "Escape") { hide(); return; }
    if (!bar || event.ctrlKey || event.altKey || event.metaKey) { return; }
    var all = bars(bar.closest("[data-chart]")), at = all.indexOf(bar);
    var to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined) { return; }
    event.preventDefault();
    if (all[to]) { all[to].focus(); }
  });

  /* A tile's trend says in the tile's name what is pointed at. */
  function trend(event) {
    var part = event.target instanceof Element ? event.target.closest(".tile svg [data-label]") : null;
    document.querySelectorAll(".tile-said").forEach(function (each) {
      each.textContent = part && each.closest(".tile").contains(part) ? part.dataset.label : "";
    });
  }
  document.addEventListener("pointerover", trend);
  document.addEventListener("pointerdown", trend);

  document.addEventListener("DOMContentLoaded", function () {
    prepare(document);
    document.body.addEventListener("htmx:load", function (event) { prepare(event.detail.elt.parentElement || document); });
  });
})();
