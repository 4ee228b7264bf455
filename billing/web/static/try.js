/* Trying an endpoint of the reference: a form's fields go where it says that they belong, to this gateway alone, with the
   credentials that were typed above, of which nothing is kept. */
(function () {
  "use strict";
  var HEADERS = { bearer: "Authorization", person: "Authorization", adminKey: "X-Admin-Key", serviceKey: "X-API-Key", serviceName: "X-Service-Name" };
  var MOST_SHOWN = 100000;

  function credentials(form) {
    var headers = {};
    document.querySelectorAll("[data-credential]").forEach(function (each) {
      each.dataset.credential.split(" ").forEach(function (name) {
        if (each.value && form.dataset.callers.split(" ").includes(name)) {
          headers[HEADERS[name]] = HEADERS[name] === "Authorization" ? "Bearer " + each.value : each.value;
        }
      });
    });
    return headers;
  }

  function asked(form) {
    var path = form.dataset.path, query = new URLSearchParams(), headers = credentials(form), body;
    form.querySelectorAll("[data-in]").forEach(function (each) {
      var value = each.value, name = each.name;
      if (each.dataset.in === "path") {
        path = path.replace(new RegExp("\\{" + name + "(:[^}]*)?\\}"), encodeURIComponent(value));
      } else if (each.dataset.in === "body") { body = value; headers["Content-Type"] = "application/json"; }
      else if (value && each.dataset.in === "query") { query.append(name, value); }
      else if (value && each.dataset.in === "header") { headers[name] = value; }
    });
    var base = document.documentElement.dataset.root + "..";
    return [base + path + (String(query) ? "?" + query : ""), { method: form.dataset.method, headers: headers, body: body, credentials: "omit" }];
  }

  function said(text) {
    try { return JSON.stringify(JSON.parse(text), null, 2); } catch (error) { return text; }
  }

  document.addEventListener("submit", function (event) {
    var form = event.target.closest("[data-try]");
    if (!form) { return; }
    event.preventDefault();
    var answer = form.querySelector("output"), began = performance.now(), request = asked(form);
    answer.hidden = false;
    answer.textContent = "…";
    fetch(request[0], request[1]).then(function (response) {
      var head = response.status + " " + response.statusText + ", " + Math.round(performance.now() - began) + " ms";
      ["x-request-id", "x-metergate-charge-usd", "x-metergate-balance-usd"].forEach(function (name) {
        if (response.headers.get(name)) { head += "\n" + name + ": " + response.headers.get(name); }
      });
      return response.text().then(function (text) { answer.textContent = head + "\n\n" + said(text.slice(0, MOST_SHOWN)); });
    }).catch(function (error) { answer.textContent = "The gateway was not reached: " + error.message; });
  });
})();
