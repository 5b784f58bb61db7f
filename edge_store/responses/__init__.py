"""OpenAI's Responses and Conversations, on any engine that has chat.

What is asked becomes a chat, the chat's answer becomes the events and the object of a response
(``ask``, ``items``, ``events``, ``objects``); what is kept of them is in ``store``. A response is
one result: its answer is the chat's, so nothing of it is stored twice.
"""
