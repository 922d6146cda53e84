// A query, a mutation and subscriptions with npm's graphql-ws and graphql-sse:
// node clients.mjs ws|sse http://127.0.0.1:8000/graphql PIPELINE GATE
// Starts an execution of the pipeline and follows it, then once more with a break after the second payload. Its first
// stage waits for the file GATE, which is made once the first payload has come.
// Writes one JSON object: what each operation answered.
import { writeFileSync } from "node:fs";
import * as sse from "graphql-sse";
import * as ws from "graphql-ws";
import WebSocket from "ws";

const START = `mutation ($id: ID!) {
  startExecution(input: { pipelineId: $id }) { ... on ExecutionStarted { execution { id } } }
}`;
const FOLLOW = `subscription ($id: ID!, $after: String) {
  executionEvents(executionId: $id, after: $after) { cursor caughtUp events { seq } execution { status } }
}`;

const [, , kind, url, pipeline, gate] = process.argv;
const client =
  kind === "ws"
    ? ws.createClient({ url: url.replace("http", "ws"), webSocketImpl: WebSocket, retryAttempts: 0 })
    : sse.createClient({ url, retryAttempts: 0 });

async function one(query, variables) {
  const results = [];
  for await (const result of client.iterate({ query, variables })) results.push(result);
  if (results.length !== 1) throw new Error(`${results.length} results of ${query}`);
  return results[0];
}

async function follow(variables, atMost = Infinity) {
  const batches = [];
  for await (const result of client.iterate({ query: FOLLOW, variables })) {
    if (result.errors) throw new Error(JSON.stringify(result.errors));
    batches.push(result.data.executionEvents);
    writeFileSync(gate, "");
    if (batches.length === atMost) break;
  }
  return batches;
}

const answers = {};
answers.query = await one("{ viewer { name role } }");
answers.refused = await one("{ nothing }").catch((errors) => ({ errors }));
answers.mutation = await one(START, { id: pipeline });
const id = answers.mutation.data.startExecution.execution.id;
answers.live = await follow({ id });
const begun = await follow({ id, after: answers.live[0].cursor }, 1);
answers.resumed = [...begun, ...(await follow({ id, after: begun[0].cursor }))];
await client.dispose();
process.stdout.write(JSON.stringify(answers));
