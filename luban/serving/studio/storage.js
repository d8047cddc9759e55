// This browser's storage, which can be full.

// Whether there was room for it.
export function put(key, text) {
  try {
    localStorage.setItem(key, text);
  } catch (error) {
    if (error.name !== "QuotaExceededError") throw error;
    return false;
  }
  return true;
}
