//! Webhooks as the Standard Webhooks specification has them.
