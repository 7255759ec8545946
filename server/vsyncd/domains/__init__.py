"""The served domains, one package each."""
