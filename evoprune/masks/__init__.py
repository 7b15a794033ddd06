"""Masks: which weights survive; random ones, their overlap, and the connections that they cut off."""
