"""The commands of `heablcoin-cloud` beside serving: one a file."""
