// Buttons that change something: posted as JSON, answered without leaving the page.

let toastTimer = 0;

/** Says something at the bottom of the page for a while. */
export function toast(text, isBad = false) {
  const box = document.getElementById("toast");
  box.textContent = text;
  box.classList.toggle("is-bad", isBad);
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, isBad ? 9_000 : 3_500);
}

/** Posts JSON. Throws an error whose message is for people. */
export async function post(address, body) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "content-type": "application/json", accept: "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server cannot be reached.");
  }
  const text = await answer.text();
  if (answer.ok) return text ? parse(text) : null;
  throw new Error(complaint(parse(text), answer.status));
}

/** The sentence of an error answer. */
export function complaint(error, status) {
  const { message, help } = error ?? {};
  if (!message) return `The server answered ${status}.`;
  return help ? `${message}\n${help}` : message;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Puts a text where the reader can paste it from. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied");
  } catch {
    toast("The browser does not allow copying here: mark the text instead.", true);
  }
}

export function startActions() {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button.dataset.copy);
  });
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-post]");
    if (!form) return;
    event.preventDefault();
    const button = form.querySelector("button");
    const { post: address, body, bodyJob, bodyFrom, done } = form.dataset;
    button.disabled = true;
    try {
      const asked = bodyJob ? { job: bodyJob } : JSON.parse(body);
      await post(address, bodyFrom ? { ...asked, from: bodyFrom } : asked);
      toast(done);
    } catch (error) {
      toast(error.message, true);
    }
    button.disabled = false;
    document.dispatchEvent(new CustomEvent("kiln:refresh"));
  });
}
