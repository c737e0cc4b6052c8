#include <sstream>

#include "eval/ruler/source.h"

namespace windowkv::eval::ruler {

namespace {

std::vector<std::string> split(const char* words) {
  std::istringstream stream(words);
  std::vector<std::string> list;
  for (std::string word; stream >> word;) list.push_back(std::move(word));
  return list;
}

constexpr const char* kNouns = R"(
acorn actor alley almond anchor ankle anthem apple apron arch archer arena armor arrow artist ash atlas attic
author autumn avenue axle badge badger bakery balcony ballad balloon bamboo banana bandage banjo banner
barley barn barrel basil basin basket bat bay beach beacon bead bean bear beard beaver bee beetle bell belt
bench berry bicycle bird biscuit blanket blossom board boat bolt bone bonnet book boot bottle boulder bow
bowl box bracelet branch brass bread breeze brick bride bridge broom brother brush bubble bucket buckle bug
bull bundle burrow bus bush butcher butter button cabbage cabin cable cactus cage cake calendar calf camel
camera camp canal candle candy cannon canoe canvas canyon cap cape captain car caravan card cargo carpet
carrot cart castle cat cattle cave cedar ceiling cellar cello cement chain chair chalk chapel chapter
charcoal cheek cheese cherry chess chest chicken chief chimney chin church cider circle circus city clay
cliff cloak clock cloth cloud clover clown coach coast coat cobbler coconut coffee coin collar colony comb
comet compass concert cook copper coral cord cork corn corner cottage cotton couch cousin cow crab cradle
crane crayon cream creek crew cricket crowd crown crumb crystal cube cup curtain cushion dagger dairy dancer
date daughter dawn deer dentist desert desk diamond diary dinner diver dock doctor dog doll dolphin donkey
door dove dragon drawer drawing driver drum duck duke dust dwarf eagle ear earring easel echo eel egg elbow
elephant elk elm emerald empire engine envelope evening eyebrow fabric factory falcon farm farmer father
faucet feather fence fern ferry festival fiddle field fig finger fire firefly fireplace fisherman flag flame
flask fleet flint flock flood floor florist flour flower flute foam fog folder forehead forest fork fort
fountain fox frame freckle frog frost fruit fur furnace galaxy gallery garage garden garlic garment gate
gazelle gem general ghost giant giraffe glacier glass globe glove glue goat goblet goose grain grandmother
grape grass gravel grocer grove guard guest guitar gull gutter hail hair hall hallway hammer hammock hamster
handle harbor hare harp harvest hat hawk hay hazel hedge helmet herb herd hermit heron hill hinge hive honey
hood hoof hook horizon horn hornet horse hose hospital hotel house hunter hurdle husband hut ice iceberg
igloo inch ink inn insect iron island ivory ivy jacket jaguar jail jam jar jasmine jaw jelly jewel jigsaw
judge jug juggler juice jungle juniper jury kangaroo kennel kettle key keyboard kidney king kingdom kitchen
kite kitten knee knife knight knot koala label lace ladder lady lagoon lake lamb lamp lantern lark lattice
laundry lava lawn lawyer leaf leather ledge lemon lens leopard letter lettuce library lighthouse lily lime
linen lion lip lizard llama loaf lobster locket log loom lotus luggage lumber lynx lyric machine magazine
magnet maid mailbox mane mango mansion mantle map maple marble market mask mason mast mattress mayor meadow
meal medal melon merchant mermaid metal meteor mill miner mint mirror mitten moat mole monk monkey monsoon
moon moose morning mosaic mosque moss moth mother motor mountain mouse mouth mud muffin mule muscle museum
mushroom musician mustard nail napkin neck necklace needle neighbor nephew nest net newspaper niece night
nightingale noodle nose notebook novel nurse nut nutmeg oak oar oasis oat ocean octopus office olive onion
opal opera orange orchard orchestra orchid ore organ ostrich otter oven owl ox oyster paddle page pail paint
painter palace palm pan panda panther pantry paper parade parcel park parrot parsley passenger pasta pasture
path patio peach peacock peanut pear pearl peasant pebble pelican pen pencil penguin pepper perfume petal
phone piano pickle picnic picture pie pier pig pigeon pillar pillow pilot pine pineapple pipe pirate pistol
plain planet plank plate platform plaza plum plumber pocket poem poet polar pole pond pony porch port porter
portrait potato potter pottery powder prairie priest prince princess printer prison puddle pulley pumpkin
puppet puppy purse puzzle pyramid quail quarry quartz queen quill quilt quiver rabbit raccoon radio radish
raft railway rain rainbow raisin ranch raspberry raven razor reed reef ribbon rice rider ridge rifle ring
river road robe robin robot rocket roof room rooster root rope rose rowboat ruby rudder rug ruler saddle sage
sail sailor salad salmon salt sandal sandwich sapphire satchel satin saucer sausage saw scale scarf school
scissors scooter scorpion screw sculptor sea seagull seal seashell seed servant shadow shark shawl shed sheep
shelf shell shepherd shield ship shirt shoe shop shore shoulder shovel shrimp shrub sign silk silver singer
siren sister skate skeleton sketch ski skirt skull sky slate sled sleeve slipper smoke snail snake snow soap
sock sofa soldier son song soup spade sparrow spear spice spider spinach sponge spoon spring spruce squirrel
stable stadium stair stamp star starfish station statue steam steel stem stew stick stone stool stork storm
stove stranger straw strawberry stream street string student studio suburb sugar suit suitcase summer sun
sunflower sunset surgeon swallow swamp swan sweater sword syrup table tablet tailor tambourine tank tapestry
tea teacher teapot telescope temple tent theater thimble thistle thorn thread throne thumb thunder ticket
tiger tile timber toad toast toe tomato tooth torch tortoise towel tower town toy tractor trail train tray
treasure tree triangle trombone trout truck trumpet trunk tulip tunnel turkey turnip turtle twig twin
umbrella uncle unicorn uniform valley van vase vault vegetable veil vein velvet vest village vine vinegar
violet violin visitor volcano vulture wagon waist waiter wall wallet walnut walrus wardrobe warehouse wasp
watch waterfall wave wax weasel weaver web wedding well whale wheat wheel whiskey whistle widow wife willow
window wine wing winter wizard wolf woman wood wool worker workshop wren wrist writer yacht yard yarn yogurt
youth zebra zipper zoo
)";

constexpr const char* kAdjectives = R"(
able absent active agile alert amber ample ancient angry anxious arctic awake awkward bald bare basic beige
bent bitter black bland blank blind blue blunt bold bored brave brief bright brisk broad broken bronze brown
busy calm careful careless casual cautious central cheap cheerful chilly chubby civil classic clean clear
clever close cloudy clumsy coarse cold colorful comfortable common complete cool costly cozy cracked crazy
creamy crimson crisp cruel curious curly curved daily damp dangerous daring dark dead deaf dear decent deep
delicate dense dim dirty distant dizzy domestic double drab dreamy dry dull dusty eager early earnest eastern
easy elder elegant empty endless enormous equal eternal even exact exotic extra faint fair faithful false
famous fancy fast fat fatal feeble festive fierce final fine firm flat fluffy foamy fond foolish foreign
formal fragile frail free fresh friendly frosty frozen full funny fuzzy generous gentle giddy gifted glad
glassy gleaming global gloomy glorious golden good graceful grand gray greasy great greedy green grim gritty
grumpy guilty hairy handsome handy happy hard harsh hasty hazy healthy heavy helpful hidden high hollow holy
honest hot huge humble humid hungry icy ideal idle immense indigo inner innocent intense invisible jagged
jealous jolly joyful juicy keen kind knotty large late lazy lean legal level light likely limp lively local
lonely long loose loud lovely low loyal lucky lush mad magenta magic main major marvelous massive mature
mellow merry messy mighty mild milky minor misty modern modest moist muddy mute mysterious naive narrow nasty
native natural neat nervous new nice nimble noble noisy normal northern novel numb obedient oblong odd old
open ordinary ornate outer oval painful pale paltry patient peaceful perfect pink plain playful pleasant
plump polite poor popular precious pretty private prompt proud public pure purple puzzled quaint quick quiet
rainy rapid rare raw ready real rear red regal regular rich rigid ripe robust rocky rosy rotten rough round
royal rude rural rusty sad safe salty sandy scarce scarlet secret selfish serene serious severe shaggy
shallow sharp shiny short shy silent silky silly simple single sleepy slender slim slippery slow small smart
smooth snowy sober social soft solemn solid sour southern spare sparse special spicy spotless square stale
stately steady steep sticky stiff still stormy straight strange strict strong stubborn sturdy subtle sudden
sunny superb sure sweet swift tall tame tan tart tasty tender tense thick thin thirsty thorough thrifty tidy
tight timid tiny tired tough tranquil tricky tropical true twisted ugly uneasy unique unusual upper upset
urban useful usual vacant vague vain valid vast velvety violet vital vivid warm wary wavy weak wealthy weary
weird western wet white whole wide wild windy wise witty wobbly wooden woolly worn worthy wrong yellow young
zealous
)";

constexpr const char* kVerbs = R"(
accept admire admit advise agree allow amuse announce answer appear arrange arrest arrive ask assist attach
attack attend avoid bake balance bathe beg begin behave believe belong bend blend blink boast boil borrow
bounce breathe build burn bury buy calculate carry carve catch celebrate change charge chase chew choose chop
clap climb collect compare complain confess confuse connect consider contain continue correct cough count
cover crash crawl cry dance dare decide decorate deliver depend describe deserve destroy discover divide drag
dream dress drift drink drop earn eat encourage enjoy enter escape examine excuse exist expand expect explain
explore fade fail fasten fetch fill find float flow fly fold follow forget forgive gather gaze giggle give
glow grab greet grin grip groan grow guess guide hang happen hatch heal hear help hide hold hope hover hug
hum hurry identify ignore imagine improve include inform inspect invent invite join jump kick kneel knit
knock know laugh launch lead lean learn leave lend lick lift listen live lock love melt memorize mend mix
move multiply murmur need nod notice obey observe obtain offer order owe own pack pause perform permit plead
please pour practice pray preach prefer prepare pretend prevent print promise protect prove provide pull
punish push reach read receive recite recognize refuse regret reject rejoice relax release rely remain
remember remind remove repair repeat replace reply request rescue return reveal rinse roam rub rush sail save
scatter scold scratch scream scrub search seem sell send separate settle sew shake share shine shiver shout
shrink shrug shut sigh sing sink sip sit sleep slide slip smile snatch sneeze sniff snore soak solve speak
spell spend spill spin spread squeeze squint stand stare stay steer stir stop stretch stroll stumble succeed
suffer suggest suppose surprise surround suspect swim swing take talk teach tear tease tell tempt thank think
throw tickle tie travel tremble trust try tug turn unite unlock unpack untie vanish visit wait wake walk
wander want warn wash waste wave weep weigh welcome whisper win wink wipe wish wonder work worry wrap wriggle
write yawn yell yelp
)";

}  // namespace

const std::vector<std::string>& nouns() {
  static const auto kList = split(kNouns);
  return kList;
}

const std::vector<std::string>& adjectives() {
  static const auto kList = split(kAdjectives);
  return kList;
}

const std::vector<std::string>& verbs() {
  static const auto kList = split(kVerbs);
  return kList;
}

}  // namespace windowkv::eval::ruler
