//! One MQTT 3.1.1 connection without its socket: bytes in, messages out, and the other way round.

use mqtt_protocol_core::mqtt::Connection;
use mqtt_protocol_core::mqtt::Version;
use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event};
use mqtt_protocol_core::mqtt::packet::{Packet, Qos, SubEntry, SubOpts, v3_1_1};
use mqtt_protocol_core::mqtt::prelude::*;
use mqtt_protocol_core::mqtt::result_code::{ConnectReturnCode, MqttError as ProtocolError, SubackReturnCode};
use mqtt_protocol_core::mqtt::role::Client;

/// The largest packet that is accepted: the topics that are subscribed to carry a word.
const PACKET_LIMIT: u32 = 16 << 10;
/// Seconds without a packet after which the broker gives up the connection.
pub const KEEP_ALIVE_SECONDS: u16 = 30;

/// Who connects, and what the broker announces when the connection is lost.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the session.
    pub client_id: String,
    /// User and password.
    pub user: Option<String>,
    /// See `user`.
    pub password: Option<Vec<u8>>,
    /// Topic of the last will, whose retained message is `offline`.
    pub will_topic: String,
}

/// What a broker sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The connection is accepted.
    Accepted,
    /// The subscription is accepted.
    Subscribed,
    /// The broker has the message of this number.
    Receipt(u16),
    /// A message.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
    },
}

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The broker refuses the client.
    #[error("the broker refuses the connection ({0:?}); check user and password-file")]
    Refused(ConnectReturnCode),
    /// The broker refuses the subscription.
    #[error("the broker refuses the subscription to `{0}`")]
    Subscription(String),
    /// What arrives is not MQTT, or what should be sent is not possible.
    #[error("the broker and Bellis do not understand each other ({0:?})")]
    Protocol(ProtocolError),
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// A connection. Whatever it has to send is appended to `out` of each call.
pub struct MqttClient {
    connection: Connection<Client>,
    subscription: String,
}

impl MqttClient {
    /// A connection that is to be made, with a subscription to one topic.
    pub fn new(subscription: &str) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_LIMIT);
        let mut connection = Connection::with_options(Version::V3_1_1, options);
        connection.set_auto_pub_response(true);
        Self { connection, subscription: subscription.to_owned() }
    }

    /// Asks for the connection.
    pub fn connect(&mut self, identity: &Identity, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let mut packet = v3_1_1::Connect::builder()
            .client_id(identity.client_id.as_str())?
            .clean_session(true)
            .keep_alive(KEEP_ALIVE_SECONDS)
            .will_message(identity.will_topic.as_str(), b"offline".to_vec(), Qos::AtLeastOnce, true)?;
        if let Some(user) = &identity.user {
            packet = packet.user_name(user.as_str())?;
        }
        if let Some(password) = &identity.password {
            packet = packet.password(password.clone())?;
        }
        let events = self.connection.checked_send(packet.build()?);
        self.collect(events, out).map(drop)
    }

    /// Asks for the subscription.
    pub fn subscribe(&mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let entry = SubEntry::new(self.subscription.as_str(), SubOpts::new().set_qos(Qos::AtMostOnce))?;
        let packet_id = self.connection.acquire_packet_id()?;
        let packet = v3_1_1::Subscribe::builder().packet_id(packet_id).entries(vec![entry]).build()?;
        let events = self.connection.checked_send(packet);
        self.collect(events, out).map(drop)
    }

    /// Publishes a message; `acknowledged` asks the broker for a receipt. Returns the number of the receipt.
    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
        acknowledged: bool,
        out: &mut Vec<u8>,
    ) -> Result<Option<u16>, ClientError> {
        let mut packet = v3_1_1::Publish::builder().topic_name(topic)?.payload(payload.to_vec()).retain(retain);
        let number = if acknowledged { Some(self.connection.acquire_packet_id()?) } else { None };
        if let Some(number) = number {
            packet = packet.qos(Qos::AtLeastOnce).packet_id(number);
        }
        let events = self.connection.checked_send(packet.build()?);
        self.collect(events, out).map(|_| number)
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let events = self.connection.checked_send(v3_1_1::Pingreq::builder().build()?);
        self.collect(events, out).map(drop)
    }

    /// Takes leave, so that the broker does not publish the last will.
    pub fn disconnect(&mut self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        // The request to close that follows is no error here.
        for event in self.connection.checked_send(v3_1_1::Disconnect::builder().build()?) {
            if let Event::RequestSendPacket { packet, .. } = event {
                out.extend_from_slice(&packet.to_continuous_buffer());
            }
        }
        Ok(())
    }

    /// Takes received bytes.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Vec<Incoming>, ClientError> {
        let (mut cursor, mut incoming) = (Cursor::new(bytes), Vec::new());
        // One packet at a time.
        while cursor.position() < bytes.len() as u64 {
            let before = cursor.position();
            let events = self.connection.recv(&mut cursor);
            incoming.extend(self.collect(events, out)?);
            if cursor.position() == before {
                break;
            }
        }
        Ok(incoming)
    }

    fn collect(&mut self, events: Vec<Event>, out: &mut Vec<u8>) -> Result<Vec<Incoming>, ClientError> {
        let (mut incoming, mut closes) = (Vec::new(), None);
        for event in events {
            match event {
                Event::RequestSendPacket { packet, .. } => out.extend_from_slice(&packet.to_continuous_buffer()),
                Event::NotifyPacketReceived(packet) => incoming.extend(self.received(&packet)?),
                Event::NotifyError(error) => closes = Some(error),
                Event::RequestClose => {
                    closes.get_or_insert(ProtocolError::ProtocolError);
                }
                // Times are kept by the task that owns the socket.
                _ => {}
            }
        }
        closes.map_or(Ok(incoming), |error| Err(error.into()))
    }

    fn received(&self, packet: &Packet) -> Result<Option<Incoming>, ClientError> {
        Ok(match packet {
            Packet::V3_1_1Connack(answer) => match answer.return_code() {
                ConnectReturnCode::Accepted => Some(Incoming::Accepted),
                refused => return Err(ClientError::Refused(refused)),
            },
            Packet::V3_1_1Suback(answer) => match answer.return_codes().as_slice() {
                [] | [SubackReturnCode::Failure, ..] => return Err(ClientError::Subscription(self.subscription.clone())),
                _ => Some(Incoming::Subscribed),
            },
            Packet::V3_1_1Puback(receipt) => Some(Incoming::Receipt(receipt.packet_id())),
            Packet::V3_1_1Publish(message) => {
                Some(Incoming::Message { topic: message.topic_name().to_owned(), payload: message.payload().as_slice().to_vec() })
            }
            _ => None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn connected() -> MqttClient {
        let (mut client, mut out) = (MqttClient::new("homeassistant/status"), Vec::new());
        let identity =
            Identity { client_id: "bellis".into(), user: None, password: None, will_topic: "bellis/kitchen/status".into() };
        client.connect(&identity, &mut out).unwrap();
        assert_eq!(client.receive(&[0x20, 2, 0, 0], &mut out).unwrap(), [Incoming::Accepted]);
        client
    }

    #[test]
    fn a_message_is_read_wherever_it_is_cut() {
        let bytes = b"\x30\x0e\x00\x06statusonline\x30\x09\x00\x06statusx";
        for cut in 1..bytes.len() {
            let (mut client, mut messages) = (connected(), Vec::new());
            for part in bytes.chunks(cut) {
                messages.extend(client.receive(part, &mut Vec::new()).unwrap());
            }
            let message = |payload: &str| Incoming::Message { topic: "status".into(), payload: payload.as_bytes().to_vec() };
            assert_eq!(messages, [message("online"), message("x")], "cut every {cut} bytes");
        }
    }

    #[test]
    fn a_receipt_has_the_number_of_its_message() {
        let mut client = connected();
        let number = client.publish("s", b"x", false, true, &mut Vec::new()).unwrap().unwrap();
        let receipt = [&[0x40, 2][..], &number.to_be_bytes()].concat();
        assert_eq!(client.receive(&receipt, &mut Vec::new()).unwrap(), [Incoming::Receipt(number)]);
        assert_eq!(client.publish("s", b"x", false, false, &mut Vec::new()).unwrap(), None);
    }

    #[test]
    fn a_client_takes_leave() {
        let (mut client, mut out) = (connected(), Vec::new());
        client.publish("s", b"off", true, false, &mut out).unwrap();
        client.disconnect(&mut out).unwrap();
        assert_eq!(out, b"\x31\x06\x00\x01soff\xe0\x00");
    }

    #[test]
    fn a_refused_client_names_its_credentials() {
        let mut client = MqttClient::new("status");
        let identity = Identity {
            client_id: "bellis".into(),
            user: Some("me".into()),
            password: Some(b"secret".to_vec()),
            will_topic: "w".into(),
        };
        client.connect(&identity, &mut Vec::new()).unwrap();
        let refused = client.receive(&[0x20, 2, 0, 5], &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("check user and password-file"), "{refused}");
    }

    #[test]
    fn a_large_packet_is_refused_before_it_is_kept() {
        let refused = connected().receive(&[0x30, 0xff, 0xff, 0xff, 0x7f], &mut Vec::new());
        assert!(matches!(refused, Err(ClientError::Protocol(ProtocolError::PacketTooLarge))), "{refused:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn no_bytes_cause_a_panic(
            kind in any::<u8>(),
            length in prop_oneof![0u8..20, any::<u8>()],
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            framed in any::<bool>(),
            cut in 1usize..32,
        ) {
            let mut client = connected();
            let length = if framed { bytes.len() as u8 } else { length };
            for part in [&[kind, length], &bytes[..]].concat().chunks(cut) {
                if client.receive(part, &mut Vec::new()).is_err() {
                    break;
                }
            }
        }
    }
}
