"""From the indexes of all layers to a plan, and from the plan to one tar."""
