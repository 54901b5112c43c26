"""From stored layers to plain tars, decoded, walked and checked, by as many as there are CPUs."""
