"""What reads usage of each dialect's answers."""

from gateway.dialects.anthropic.usage import usage_from_json as of_message
from gateway.dialects.gemini.dialect import usage_from_json as of_gemini
from gateway.dialects.openai.answer import usage_from_json as of_chat
from gateway.dialects.openai_responses.answer import usage_of as of_response

READERS = {
    "chat": lambda body: of_chat("/chat/completions", body),
    "embeddings": lambda body: of_chat("/embeddings", body),
    "responses": of_response,
    "messages": of_message,
    "gemini": lambda body: of_gemini("v1beta:generateContent", body),
}
