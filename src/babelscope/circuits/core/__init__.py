"""What all of circuits stands on: nodes, edges, batches of prompts, the activation cache, the logit difference."""
