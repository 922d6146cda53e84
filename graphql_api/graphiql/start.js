"use strict";

const address = new URL("/graphql", window.location.href);
const socket = new URL(address);
socket.protocol = address.protocol === "https:" ? "wss:" : "ws:";

const fetcher = GraphiQL.createFetcher({ url: address.href, subscriptionUrl: socket.href });
const page = React.createElement(GraphiQL, {
  fetcher,
  defaultQuery: "# Press Ctrl-Enter to run the query. If the server requires a token, add it under Headers below:\n# {\"Authorization\": \"Bearer ...\"}\n\n{\n  __typename\n}\n",
  isHeadersEditorEnabled: true,
  shouldPersistHeaders: false,
});
ReactDOM.createRoot(document.getElementById("graphiql")).render(page);
