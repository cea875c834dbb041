"""The network: trunk, heads, decoding, and the file it is kept in."""
