"""What single heads do: direct logit attribution, attention patterns, roles, routes, and what their ablation costs."""
