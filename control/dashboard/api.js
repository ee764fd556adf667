// The API, asked with the key of whoever signed in. The key is kept by the tab and goes into a header, never an address.

const KEY = "gateway-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const signedIn = () => sessionStorage.getItem(KEY) !== null;
export const signIn = (key) => sessionStorage.setItem(KEY, key);
export const signOut = () => sessionStorage.removeItem(KEY);

export async function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const address = given.length ? `${path}?${new URLSearchParams(given)}` : path;
  const answer = await fetch(address, { headers: { authorization: `Bearer ${sessionStorage.getItem(KEY)}` } });
  if (answer.ok) return answer.json();
  const body = await answer.json().catch(() => null);
  throw new Refused(answer.status, body?.error?.message ?? `The gateway answered ${answer.status}.`);
}

// What a gateway does not offer is not there; that is no error.
export const getIfThere = (path, query) =>
  get(path, query).catch((error) => {
    if (error.status === 404) return null;
    throw error;
  });
