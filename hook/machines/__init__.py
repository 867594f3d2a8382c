"""Which machine gets a build: the machines of `builders`, the decision, slots, waiting, health."""
