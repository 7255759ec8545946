"""Payments, their totals, and the health of payment processors."""
