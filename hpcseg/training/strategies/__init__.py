"""hpcseg's strategies, each in one module: what planning asks of it, its keys, and what it trains."""
