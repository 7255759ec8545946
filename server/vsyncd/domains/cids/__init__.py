"""CIDs: the content identifiers of a participant's Pix keys."""
