"""The audit trail: who did what to which key, and when; appended, never changed."""
