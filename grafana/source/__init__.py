"""The dashboards, as a program that writes them."""
