"""Engines: each turns (problem, masks) into one ``nn.Module`` whose parameters hold every individual."""
