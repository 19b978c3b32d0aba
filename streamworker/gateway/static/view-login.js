// The form for the token, where the gateway wants one.

import { make, setText, show } from "./dom.js";
import { post } from "./rest.js";

export class LoginView {
  title = "Sign in";
  actions = {};

  constructor(place, route, world) {
    this.token = make("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true, spellcheck: "false", maxlength: 1000 });
    this.error = make("p.notice", { role: "alert", hidden: true, "data-kind": "bad" });
    this.button = make("button.button.primary", { type: "submit" }, "Sign in");
    const form = make("form.login.card", { submit: (event) => this.#send(event, world) }, make("h1", {}, "Sign in"), make("p.sub", {}, "This gateway asks for a token: the one it was started with, or its read-only one."), make("label", { for: "token" }, "Token"), this.token, this.error, this.button);
    place.replaceChildren(form);
    this.token.focus();
  }

  update() {}

  close() {}

  async #send(event, world) {
    event.preventDefault();
    this.button.disabled = true;
    try {
      const session = await post("api/session", { token: this.token.value });
      world.signedIn(session);
    } catch (error) {
      setText(this.error, error.status === 401 || error.status === 403 ? "This is not the token." : `Not signed in: ${error.message}.`);
      show(this.error, true);
      this.token.select();
    } finally {
      this.button.disabled = false;
    }
  }
}
