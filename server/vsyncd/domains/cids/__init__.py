"""CIDs: the participant's keys with their content identifiers."""
