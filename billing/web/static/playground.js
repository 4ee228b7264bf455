/* The playground of the quickstart: a request to the proxy at this address, with the key that was typed. The key is read
   from its field when it is needed, kept nowhere, and sent without the console's cookie. */
(function () {
  "use strict";
  var form = document.getElementById("playground");
  var COST_TRIES = 12, COST_PAUSE_MS = 750;
  if (!form) { return; }
  var answer = document.getElementById("p-answer"), cost = document.getElementById("p-cost");
  var stop = document.getElementById("p-stop"), send = form.querySelector("button.main");
  var running = null;

  function ask(path, options) {
    options.headers = Object.assign({ Authorization: "Bearer " + document.getElementById("p-key").value.trim() }, options.headers);
    options.credentials = "omit";
    return fetch(form.dataset.base + path, options);
  }

  function said(response) {
    return response.json().then(function (body) { return (body.error && body.error.message) || response.statusText; },
      function () { return response.status + " " + response.statusText; });
  }

  /* Server-sent events: a line of "data: " has one piece of the answer, "[DONE]" ends it. */
  function take(line) {
    if (line.indexOf("data:") !== 0) { return; }
    var text = line.slice(5).trim(), piece;
    if (text === "[DONE]" || !text) { return; }
    piece = JSON.parse(text);
    if (piece.error) { throw new Error(piece.error.message); }
    var choice = piece.choices && piece.choices[0];
    if (choice && choice.delta && choice.delta.content) { answer.textContent += choice.delta.content; }
  }

  function read(reader, decoder, rest) {
    return reader.read().then(function (part) {
      var lines = (rest + (part.done ? "\n" : decoder.decode(part.value, { stream: true }))).split("\n");
      var left = lines.pop();
      lines.forEach(take);
      return part.done ? null : read(reader, decoder, left);
    });
  }

  function pause() { return new Promise(function (go) { setTimeout(go, COST_PAUSE_MS); }); }

  /* The ledger has a request a moment after its answer has ended. */
  function showCost(id, tries) {
    return pause().then(function () { return ask("/generations/" + encodeURIComponent(id), {}); }).then(function (response) {
      if (response.status === 404 && tries > 0) { return showCost(id, tries - 1); }
      if (!response.ok) { return said(response).then(function (text) { cost.textContent = "What it cost is not known here: " + text; }); }
      return response.json().then(function (event) {
        var link = document.createElement("a");
        link.href = form.dataset.requests + encodeURIComponent(id);
        link.textContent = "how that comes about";
        cost.textContent = "Charge: $" + event.charge_usd + " for " + event.total_tokens + " tokens, ";
        cost.append(link, ".");
      });
    });
  }

  function ended() {
    running = null;
    send.disabled = false;
    stop.disabled = true;
  }

  form.addEventListener("submit", function (event) {
    event.preventDefault();
    if (running) { return; }
    var id = null;
    running = new AbortController();
    send.disabled = true;
    stop.disabled = false;
    answer.textContent = "";
    cost.textContent = "";
    ask("/chat/completions", {
      method: "POST",
      signal: running.signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: document.getElementById("p-model").value.trim(),
        messages: [{ role: "user", content: document.getElementById("p-text").value }],
        stream: true,
        stream_options: { include_usage: true },
      }),
    }).then(function (response) {
      id = response.headers.get("x-request-id");
      if (!response.ok) { return said(response).then(function (text) { id = null; throw new Error(text); }); }
      return read(response.body.getReader(), new TextDecoder(), "");
    }).catch(function (error) {
      answer.textContent += error.name === "AbortError" ? "\n(stopped)" : "\n" + error.message;
    }).then(function () {
      ended();
      return id ? showCost(id, COST_TRIES) : null;
    }).catch(function (error) { cost.textContent = "What it cost is not known here: " + error.message; });
  });
  stop.addEventListener("click", function () { if (running) { running.abort(); } });
})();
