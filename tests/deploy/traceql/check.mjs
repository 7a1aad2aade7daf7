// Reads a JSON list of TraceQL queries from standard input, and prints those that Grafana's grammar does not take, with
// what is left of them from where it fails.
import { readFileSync } from 'node:fs';
import { parser } from '@grafana/lezer-traceql';

const refused = [];
for (const query of JSON.parse(readFileSync(0, 'utf8'))) {
  parser.parse(query).iterate({
    enter(node) {
      if (node.type.isError) refused.push({ query, at: query.slice(node.from) });
    },
  });
}
console.log(JSON.stringify(refused));
