// The audits of graphql-http against a running server: node audit.mjs http://127.0.0.1:8000/graphql
// Writes one JSON list: id, name, status (ok, notice, warn, error) and the reason where it is not ok.
import { auditServer } from "graphql-http";

const results = await auditServer({ url: process.argv[2] });
const summary = results.map(({ id, name, status, reason }) => ({ id, name, status, reason }));
process.stdout.write(JSON.stringify(summary));
