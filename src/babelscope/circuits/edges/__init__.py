"""Attribution to edges, circuits as sets of edges, and how faithful they are when the others are ablated."""
