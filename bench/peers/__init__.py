"""The services that vsyncd is compared with."""
