#include "eval/paraphrase_needles.h"

#include <array>

namespace windowkv::eval {

namespace {

// To change one: niah_test asserts that nothing is shared, and a small instruct model should find the answer
// with the sentence in a short text and miss it without (docs/fidelity.md).
constexpr auto kPairs = std::to_array<ParaphrasePair>({
    {"Every Thursday the baker on Quarry Lane feeds a tame heron.",
     "Which bird receives meals from somebody who makes bread?", "heron"},
    {"Old Captain Merriweather keeps his savings inside a hollow globe.",
     "In what object does a retired sailor hide money?", "globe"},
    {"The veterinarian of Brindle Hill is terrified of moths.",
     "Which insects scare a doctor who treats animals?", "moths"},
    {"Dr. Pell's twin sister plays the bassoon in the evenings.",
     "Which instrument does a physician's sibling practise at night?", "bassoon"},
    {"The stationmaster paints his front door violet each spring.",
     "What color does a railway employee give to the entrance of a house yearly?", "violet"},
    {"Young Tobias traded his bicycle for a telescope.",
     "What did a boy receive in exchange after giving away something with two wheels?", "telescope"},
    {"The widow in the cottage by the mill brews tea from nettles.",
     "What plant does a woman who lost her husband use to make a hot drink?", "nettles"},
    {"Professor Okonkwo wrote her first novel aboard a submarine.",
     "In what kind of vessel did an academic compose a book of fiction?", "submarine"},
    {"The tailor's youngest son dreams of becoming an astronaut.",
     "Which profession does the child of a man who sews suits hope to have?", "astronaut"},
    {"Our dentist collects antique keys.",
     "What type of things does someone who fixes teeth gather as a hobby?", "keys"},
    {"The mayor was bitten by a ferret during the parade.",
     "What creature hurt a town's leading politician with its teeth?", "ferret"},
    {"The violinist lost her luggage in Budapest.", "In which city did a musician's suitcase go missing?",
     "Budapest"},
    {"Lady Ashdown calls her parrot Ferdinand.", "What name did a noblewoman choose for a pet bird?",
     "Ferdinand"},
    {"The shepherd carved a chess set out of walnut.",
     "From which wood did a man who looks after a flock make pieces for a board game?", "walnut"},
    {"The lighthouse keeper's only companion is a tortoise.",
     "Which animal lives with a man who guides ships using a lamp?", "tortoise"},
    {"The village blacksmith proposed to Harriet in a hailstorm.",
     "In what weather did a man who works with iron ask a woman to marry him?", "hailstorm"},
    {"Grandmother sews her secret recipes into a quilt.",
     "Where does an elderly lady conceal cooking instructions?", "quilt"},
    {"The surgeon flew to Nairobi on Monday.", "Which city did a hospital specialist travel to by plane?",
     "Nairobi"},
    {"The florist is allergic to strawberries.", "Which fruit must a person who sells roses avoid eating?",
     "strawberries"},
    {"The judge spends every weekend repairing clocks.",
     "What does a person who presides over a court fix on Saturdays and Sundays?", "clocks"},
    {"The carpenter won a llama at the fair.", "Which animal was a prize for somebody who builds tables?",
     "llama"},
    {"The ambassador's limousine broke down near Toulouse.",
     "Close to what city did a diplomat's car stop working?", "Toulouse"},
    {"The chemist learned Portuguese from her neighbor.",
     "Which language did a scientist pick up thanks to a person living close by?", "Portuguese"},
    {"The orphan inherited a vineyard.", "What did a child without parents get from a dead relative?",
     "vineyard"},
    {"The swimmer broke his wrist on the stairs.", "Which part of the body did an athlete injure in a fall?",
     "wrist"},
    {"The fisherman keeps his grandfather's medals in a teapot.",
     "In which container does a man who catches trout store a family hero's military awards?", "teapot"},
    {"The monks sell candles to pay for a new roof.", "What product do religious brothers offer to buyers?",
     "candles"},
    {"The poet was born in a tavern.", "In what type of place did a writer of verse come into the world?",
     "tavern"},
    {"The farmer calls his tractor Penelope.", "What name does a man who grows crops give a vehicle?",
     "Penelope"},
    {"The pilot drinks only buttermilk before takeoff.",
     "Which beverage does an aviator have prior to flying?", "buttermilk"},
    {"The librarian rides a camel to work.", "On which animal does someone who lends books commute?",
     "camel"},
    {"The jeweler was arrested in Marseille.", "Where did police catch a man who sells diamonds?",
     "Marseille"},
    {"The gardener grows pineapples behind the chapel.",
     "Which tropical fruit is cultivated close to a small church?", "pineapples"},
    {"The cook seasons her stew with cardamom.", "Which spice does a kitchen worker add to a hot dish?",
     "cardamom"},
    {"The drummer studied astronomy at college.",
     "Which science was a percussionist's subject at university?", "astronomy"},
    {"The butler's brother tames elephants for a circus.", "What big animals does a servant's sibling train?",
     "elephants"},
    {"The nurse knitted mittens for the prisoners.",
     "What woolen things did a hospital employee make for people in jail?", "mittens"},
    {"The explorer's ship sank near Iceland.", "Off which island did an adventurer's boat go down?",
     "Iceland"},
    {"The accountant gave his fiancée a harp.",
     "Which musical instrument was a present to a bride from a man who manages numbers?", "harp"},
    {"The miner found an emerald in his boot.", "What gem did a man who digs for coal discover in a shoe?",
     "emerald"},
});

}  // namespace

std::span<const ParaphrasePair> paraphrase_pairs() {
  return kPairs;
}

}  // namespace windowkv::eval
