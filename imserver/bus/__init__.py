"""The way to the other nodes. ``local``: there are none.

May not live here: what is worth sending (chat), and who is connected to this node (net).
"""
