"""Speed and learning measurements: `throughput.py` and `campaign.py` are the programs, the rest are their parts."""
