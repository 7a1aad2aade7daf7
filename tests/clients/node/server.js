// Starts `wayfare serve` for a test: `$WAYFARE` is the program.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import OpenAI from "openai";

const READY = "wayfare is ready: ";
const PROGRAM = process.env.WAYFARE;

// Few KV blocks: a debug build checks all of them after every step.
const FEW_BLOCKS = ["--num-kv-blocks", "300"];
export const SIMULATED = ["sim", "--sim-profile", "instant", "--max-model-len", "2048", ...FEW_BLOCKS];
// Says back what it is told, template included: what a model would say is what the test says.
export const ECHO = [...SIMULATED, "--sim-output", "echo"];
export const SLOW = ["sim", "--inter-token-latency", "20ms", "--max-model-len", "4096", ...FEW_BLOCKS];
export const MODEL = ["--max-model-len", "1024", ...FEW_BLOCKS, "--max-num-seqs", "8"];

/** A server with these options: its address, a client, and a way to end it. */
export async function serve(...options) {
  const server = spawn(PROGRAM, ["serve", "--host", "127.0.0.1", "--port", "0", ...options], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(server, "exit");
  const first = await Promise.race([
    once(createInterface(server.stdout), "line"),
    ended.then(([status]) => Promise.reject(new Error(`the server did not start: ${status}`))),
  ]);
  const address = first[0].slice(READY.length);
  return {
    address,
    client: connect(address),
    stop: async () => {
      server.kill();
      await ended;
    },
  };
}

/** A client of a server. It does not try again, so that each error is seen. */
export function connect(address, options = {}) {
  return new OpenAI({ baseURL: `${address}/v1`, apiKey: "none", maxRetries: 0, timeout: 60_000, ...options });
}
