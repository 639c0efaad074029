"""Where rows come from: datasets, blocks and the sources that make them."""
