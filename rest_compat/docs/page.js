// Shows the OpenAPI document of this server and tries its calls. Text is only ever set as text, never as markup.
"use strict";

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function resolved(schema, spec) {
  if (!schema || !schema.$ref) return schema || {};
  return schema.$ref.slice(2).split("/").reduce((value, key) => value[key], spec);
}

function typeOf(schema, spec) {
  const found = resolved(schema, spec);
  if (found.anyOf) return found.anyOf.map((each) => typeOf(each, spec)).join(" or ");
  if (found.enum) return found.enum.join(" | ");
  if (found.const !== undefined) return JSON.stringify(found.const);
  return found.type === "array" ? `list of ${typeOf(found.items, spec)}` : found.title || found.type || "any";
}

function parameterRow(parameter, spec, inputs) {
  const input = element("input", { placeholder: parameter.schema.default ?? "" });
  inputs.push({ parameter, input });
  const name = element("code", { textContent: parameter.name + (parameter.required ? " *" : "") });
  const about = `${parameter.in}: ${typeOf(parameter.schema, spec)}. ${parameter.description || ""}`;
  return element("tr", {}, element("td", {}, name), element("td", { textContent: about }), element("td", {}, input));
}

function request(path, inputs) {
  const query = new URLSearchParams();
  const headers = {};
  const token = document.getElementById("token").value;
  if (token) headers.authorization = `Bearer ${token}`;
  for (const { parameter, input } of inputs) {
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value && parameter.in === "query") query.set(parameter.name, input.value);
    else if (input.value) headers[parameter.name] = input.value;
  }
  return { address: query.size ? `${path}?${query}` : path, headers };
}

async function send(method, path, inputs, body, output) {
  const { address, headers } = request(path, inputs);
  const options = { method: method.toUpperCase(), headers };
  if (body && body.value.trim()) {
    options.body = body.value;
    headers["content-type"] = "application/json";
  }
  output.textContent = `${options.method} ${address}\n`;
  try {
    const answer = await fetch(address, options);
    output.textContent += `${answer.status} ${answer.statusText}\n\n`;
    const decoder = new TextDecoder();
    const reader = answer.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      output.textContent += decoder.decode(part.value, { stream: true });
    }
  } catch (error) {
    output.textContent += String(error);
  }
}

function answersOf(operation, spec) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    const media = Object.values(response.content || {})[0];
    const type = media ? typeOf(media.schema, spec) : "";
    const cells = [status, type, response.description || ""];
    return element("tr", {}, ...cells.map((textContent) => element("td", { textContent })));
  });
  return element("table", {}, ...rows);
}

function call(method, path, operation, spec) {
  const inputs = [];
  const rows = (operation.parameters || []).map((parameter) => parameterRow(parameter, spec, inputs));
  const output = element("pre", { textContent: "" });
  const inside = element("div", { className: "inside" }, element("p", { textContent: operation.description || "" }));
  if (rows.length) inside.append(element("table", {}, ...rows));
  let body = null;
  if (operation.requestBody) {
    const media = operation.requestBody.content["application/json"];
    const example = Object.values(media.examples || {})[0];
    body = element("textarea", { value: example ? JSON.stringify(example.value, null, 2) : "" });
    inside.append(element("p", { textContent: `Body: ${typeOf(media.schema, spec)}` }), body);
  }
  const button = element("button", { textContent: "Send" });
  button.addEventListener("click", () => send(method, path, inputs, body, output));
  inside.append(button, output, answersOf(operation, spec));
  const method_ = element("span", { className: "method", textContent: method.toUpperCase() });
  const title = element("summary", {}, method_, element("code", { textContent: path }), ` ${operation.summary || ""}`);
  return element("details", { id: operation.operationId }, title, inside);
}

async function show() {
  const spec = await (await fetch(document.body.dataset.document)).json();
  document.getElementById("title").textContent = `${spec.info.title} ${spec.info.version}`;
  document.getElementById("about").textContent = spec.info.description;
  const groups = new Map();
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(call(method, path, operation, spec));
    }
  }
  for (const [tag, calls] of groups) {
    document.getElementById("calls").append(element("h2", { textContent: tag }), ...calls);
  }
}

show().catch((error) => { document.getElementById("about").textContent = String(error); });
