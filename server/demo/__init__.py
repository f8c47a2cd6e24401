"""`heablcoin-cloud demo`: the whole product at work on this machine, without a key and without the network."""
