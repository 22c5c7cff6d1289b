"""The way to users who are not online.

May not live here: who is online and who is to be told (chat.delivery).
"""
