"""`python -m a2c_ppo_acktr.fast` writes the fingerprints of all definitions anew (see `registry`)."""

from a2c_ppo_acktr.fast.registry import write_fingerprints

if __name__ == "__main__":
    write_fingerprints()
