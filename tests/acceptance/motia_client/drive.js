// Drives Motia's published client: takes commands as JSON lines, and tells as JSON lines what its subscriptions see.
//   {"subscribe": "<name>", "stream": "...", "group": "...", "item": "..."?, "events": ["typing", ...]}
//   {"state": "<name>"}    answers {"name", "state"}
const readline = require('node:readline')
const { Stream } = require('@motiadev/stream-client-node')

const [address, ...protocols] = process.argv.slice(2)
const stream = new Stream(address, protocols.length ? { protocols } : undefined)
const subscriptions = new Map()
const tell = (message) => process.stdout.write(JSON.stringify(message) + '\n')

function subscribe({ subscribe: name, stream: streamName, group, item, events }) {
  const subscription = item
    ? stream.subscribeItem(streamName, group, item)
    : stream.subscribeGroup(streamName, group)
  subscriptions.set(name, subscription)
  subscription.addChangeListener((state) => tell({ name, changed: state }))
  for (const type of events) subscription.onEvent(type, (data) => tell({ name, event: type, data }))
}

// In Node an error that nobody listens to ends the process, and the client listens to none; in a browser nothing ends.
const createSocket = stream.createSocket
stream.createSocket = function () {
  const socket = createSocket.call(this)
  socket.ws.on('error', () => {})
  return socket
}
stream.ws.onOpen(() => tell({ open: true }))
readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const command = JSON.parse(line)
  if (command.subscribe) subscribe(command)
  else tell({ name: command.state, state: subscriptions.get(command.state).getState() })
})
