// Drives a copy of the client module (streamworker.mjs beside this file) for test_client_module.py.
// Each line of input is [name, ...arguments]; each line of output tells what was seen.
import { createInterface } from "node:readline";
import { connect } from "./streamworker.mjs";

const tell = (...told) => process.stdout.write(JSON.stringify(told) + "\n");
let client;

const commands = {
  connect(url, options) {
    client = connect(url, options);
    client.onstate = ({ closed, ...state }) => tell("state", { ...state, closed: closed && { code: closed.code, message: closed.message } });
  },
  async watch(name, id, most = Infinity) {
    try {
      for await (const frame of client.watch(id)) {
        tell(name, frame);
        if (!--most) break;
      }
      tell(name, "over");
    } catch (error) {
      tell(name, "failed", error.message);
    }
  },
  close: () => client.close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...words] = JSON.parse(line);
  commands[name](...words);
}
