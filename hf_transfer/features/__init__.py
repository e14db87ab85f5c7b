"""The fast path of everything frozen: features extracted once and kept, then heads fitted in seconds."""
